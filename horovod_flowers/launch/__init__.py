"""How ranks are started: what the launcher's environment tells a rank, the launchers' commands, a job from outside."""
