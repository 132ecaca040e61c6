"""Rankings out and in.

Begin with export.py (`align export`), which writes rows and, by cards.py, what is known about them. imports.py (`align
import`) takes in what other programs wrote: pairs itself, the rest by argilla.py and label_studio.py.
"""
