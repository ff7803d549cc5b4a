"""The calendar service: connects accounts, reads when they are busy, keeps bookings in their calendars.

Imports go down only: ``__main__ → app → rpc · sidecar · worker → usecases → providers · store · vault → core → errors``.
"""
