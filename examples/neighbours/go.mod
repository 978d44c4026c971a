module neighbours

go 1.26.0
