"""What models do beside the people.

Begin with feedback.py (`align judge`: a judge ranks the items, and people are asked first where it is unsure); worth.py
says what those rankings are worth. revise.py (`align revise`) has answers critiqued and revised: constitution.py reads
the principles, critique.py asks, revision_files.py writes.
"""
