"""The report's pages: words, tables, pictures and files. They compute nothing."""
