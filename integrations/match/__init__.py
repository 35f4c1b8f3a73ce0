"""Path patterns in openCypher's syntax over an attention graph."""

from attnbridge.integrations.match.matches import Match as Match
from attnbridge.integrations.match.matches import Matches as Matches
from attnbridge.integrations.match.parser import parse as parse
from attnbridge.integrations.match.reader import MatchPath as MatchPath
