"""Channels that send alerts. Adding one is adding one file to this folder.

The file's name is the channel's name. It holds a class that is a :class:`~apex_ml.adapters.alerts.channel.Channel`,
with an instance in CHANNEL.
"""
