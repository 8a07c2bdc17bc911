"""What travels: frames, their JSON, close codes, and both sides of a connection as pure state machines.

`frames` and `codec` are the words, `close_codes` says why a connection ended and whether to come back.
`server_session` and `client_session` take frames and time and say what to do; sockets are elsewhere.
"""
