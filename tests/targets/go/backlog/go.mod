module backlog

go 1.24
