"""What the application shows: a file for each tab, their shared parts, the page, and its server. Needs Gradio."""
