"""From a validated request to an answer, whole or streamed. No API's bodies or shapes belong here."""
