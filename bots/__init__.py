"""What a person starts: python -m bots.wechat | bots.feishu | bots.replay | bots.console | bots.run."""
