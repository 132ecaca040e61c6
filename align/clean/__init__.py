"""Raw documents to a cleaned corpus: what `align review` and the clean recipe do, as stages of datatrove.

Begin with `program`, the stages in order. `config` is what can be set, `checks` what can be wrong before any work,
`blocks` what every step is made of, `tally` what it counts, `executors` where it runs, `write` the last step.

    read/        files of any kind into documents, and their encodings repaired
    rules/       keep, drop or review: what is said of one document by itself
    duplicates/  the same text again, or nearly
    review/      people decide what the rules are unsure of
    card/        what came of it: card.json, report.html, the table on the terminal
"""
