"""The studio: pages over the same functions as the command line. The only door to gradio."""
