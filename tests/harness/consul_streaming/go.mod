module proxygen/consul_streaming

go 1.18

require github.com/hashicorp/consul v1.14.0

exclude (
	github.com/hashicorp/go-msgpack v1.1.5
	github.com/hashicorp/go-msgpack v1.1.6
)
