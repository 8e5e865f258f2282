"""What was learnt. This wing knows no network and no picture."""
