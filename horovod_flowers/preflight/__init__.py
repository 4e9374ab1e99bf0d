"""What will go wrong with a job, found before it starts.

__main__.py    the command
rank_facts.py  what each rank sees of itself and its node
link.py        what the ranks measure together
problems.py    rules: from facts to problems, each with its remedy
table.py       what is printed
"""
