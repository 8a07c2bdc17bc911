"""REST: routes and the handlers that answer them from the views."""
