"""What stands for programs, LXC, nodes and the way to them.

A fake container's init is a real process, and a command that is run in one is a real command; what
is fake is only that nothing contains them.
"""
