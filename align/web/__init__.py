"""Small local web pages: who may reach them, what they may load, and how they fail. Begin with `server`; `guard`
decides who gets through, `static/` is what all pages look like.
"""
