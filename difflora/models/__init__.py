"""What a style is learnt on. This wing knows no list of prompts, no picture file and no front end."""
