"""The made world as a crawl would find it: `raw` puts `litter` among its pages, `score` grades what cleaning made of
them, `train_classifier` makes the classifier of unsafe pages that cleaning reads.
"""
