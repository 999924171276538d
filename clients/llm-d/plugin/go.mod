module eldr.internal/llm-d/plugin

go 1.25

// llm-d's router comes with the module that builds the endpoint picker.
require (
	eldr.internal/client v0.0.0
	eldr.internal/llm-d v0.0.0
)

replace (
	eldr.internal/client => ../../go
	eldr.internal/llm-d => ..
)
