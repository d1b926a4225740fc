module patterns

go 1.23
