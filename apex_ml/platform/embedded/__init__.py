"""The platform as processes of this machine."""
