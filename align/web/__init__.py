"""Small local web pages: who may reach them, what they may load, and how they fail. Begin with `server`; `guard` and
`sessions` decide who gets through, `serving` and `connections` are the port, `static/` is what all pages look like.
"""
