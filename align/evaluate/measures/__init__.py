"""The measures, each on texts, rows or one loaded model, none of which knows of an evaluation.

`texts` (varied, repeating, refusing; perplexity), `wins` (win rates by every judge), `suites` (local files of prompts),
`standard` (lm-eval), `personas` (opinions by topic and persona) with `ratings` (a rating read off an answer).
"""
