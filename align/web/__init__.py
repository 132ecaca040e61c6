"""Small local web pages: who may reach them, what they may load, and how they fail."""
