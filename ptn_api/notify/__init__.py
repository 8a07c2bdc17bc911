"""Orders as notifications: in chats and mail through Apprise, or as signed webhooks (docs/notify.md).

The package uses the client as any other program would. `ptn notify` is its command.
"""
