"""The page of a comparison, in HTML and in Markdown. Begin with `page`.

`tables` for both formats; `figures` says in words what `plots` draws, with the marks of `marks`, from the numbers of
`series`.
"""
