"""Training of the models that robustsr ships: recipe, data, one loop; averages of the weights of several runs."""
