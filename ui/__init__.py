"""The browser interface: Gradio layout over plain handlers that call the core."""
