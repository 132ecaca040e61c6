"""Rankings by people, models and simulated labelers: one store, one page, one way into the `rankings` schema.

store/      the labels file: items, who is asked about which, answers, what a judge said beside it
models/     judges that rank the items, and answers that a model revises
exchange/   out as a data set with its card, in from other programs' exports
page/       the page itself (HTML, JavaScript, no build step)

Begin with store/store.py, then server.py (the page's API) and program.py (`align label`). opinions.py reads what
annotators said off the rows; agreement.py, reliability.py and biases.py measure it, figures.py says it in words.
"""
