module absent

go 1.20
