"""The commands that read a server and print: rows, documents, orders as they happen."""
