"""Files and hub data sets into documents. Begin with `inputs`: what there is to read, and what is wrong with it.

`formats` and `columnar` make rows of one file, `intake` documents of the rows, `repair` mends their encoding.
"""
