"""Raw documents to a cleaned corpus: rules, duplicates, personal data, unwanted content, review by people, a card."""
