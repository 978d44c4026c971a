// Empty: a function without a body, as main.go has one, needs such a file.
