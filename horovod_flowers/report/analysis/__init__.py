"""The report's arithmetic: from recorded runs to speed-up, efficiency, laws and claims. It shows nothing."""
