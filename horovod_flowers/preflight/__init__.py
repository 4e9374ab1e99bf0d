"""What will go wrong with a job, told before it starts.

rank_facts (what each rank sees) -> link (what the ranks measure together) -> problems (rules, without MPI) -> table.
"""
