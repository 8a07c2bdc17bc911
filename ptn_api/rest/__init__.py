"""REST: the routes, and the handlers that answer them from the views.

- routes.py is the table of routes; app.py routes and authenticates a request, then calls its handler
- positions.py, documents.py, messages.py, about.py and pages.py hold the handlers
- context.py is what handlers work with; auth.py checks keys and rate limits
- run.py starts it all on a listening socket
"""
