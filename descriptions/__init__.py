"""Generators of the API's descriptions: OpenAPI, AsyncAPI and their HTML pages.

`make descriptions` writes them into ptn_api/rest/static, from where the server hands them out. They are made
from the table of routes and the types of responses and frames; a test holds the files equal to these.
"""
