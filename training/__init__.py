"""Training of the models that robustsr ships: recipe, data, one loop; means of runs."""
