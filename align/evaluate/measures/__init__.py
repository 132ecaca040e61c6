"""The measures, each on texts, rows or one loaded model, none of which knows of an evaluation.

`texts` (varied, repeating; perplexity), `wins` (win rates by every judge), `suites` (local files of prompts; skills)
and `safety` (safe and unsafe prompts), `standard` (lm-eval), `personas` (opinions by topic and persona) with `ratings`
(a rating read off an answer). `refusals` is the refusal judge, on `phrases` and `signs`.
"""
