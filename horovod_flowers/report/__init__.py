"""From recorded runs to speed-up, efficiency and the limits of both. No TensorFlow here.

content.py   everything that a report says, gathered once
options.py   the options of the command
analysis/    the arithmetic
prediction/  larger numbers of ranks than were measured
pages/       how it is shown: terminal, HTML, Markdown, CSV, JSON, pictures
exports/     the runs in the formats that other tools read
"""
