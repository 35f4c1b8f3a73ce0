"""Path patterns in openCypher's syntax over an attention graph."""

from attnbridge.integrations.match.parser import parse as parse
