"""How a report is shown. Nothing is computed here.

wording.py           numbers in words, the same everywhere; evaluation_words.py: those of an evaluation
answer_words.py      the first screen: the answer in a handful of sentences
single_runs.py       the table of single runs
narrow_tables.py     tables that a phone shows as cards
utilisation_words.py percent of peak, and why there is none
terminal.py          the table and sentences of a terminal or log
write.py             HTML, Markdown, CSV and pictures, from templates/
scaling_json.py      the report as plain values
proposal_table.py    the table for proposals as text; proposal_notes.py: what is said beside it
proposal_values.py   the same as plain values
significant.py       digits of figures that follow from each other; latex.py: names as LaTeX
predicted.py         a prediction as a table, sentences, JSON and CSV
pictures/            one file for each kind of picture
"""
