"""What happens without a caller: leased jobs, run and finished."""
