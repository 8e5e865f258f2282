"""From a folder to an adapter. This wing knows no front end."""
