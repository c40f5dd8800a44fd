"""What people do with their own clients, from login to the last byte."""
