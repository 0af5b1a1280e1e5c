"""What zdisco costs, beside a plain pyzmq program that does the same, in one run: ``make bench``."""
