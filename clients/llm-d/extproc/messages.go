package extproc

import (
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	pb "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// The namespace of the endpoint picker protocol in the dynamic metadata, for gateways that read it there.
const namespace = "envoy.lb"

// placed has Envoy send the body on as it is given here, with these headers.
func placed(headers map[string]string, key, endpoint string, body []byte) *pb.ProcessingResponse {
	var set []*core.HeaderValueOption
	for name, value := range headers {
		set = append(set, &core.HeaderValueOption{
			Header:       &core.HeaderValue{Key: name, RawValue: []byte(value)},
			AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	said := structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
		key: structpb.NewStringValue(endpoint),
	}})
	return &pb.ProcessingResponse{
		Response: &pb.ProcessingResponse_RequestBody{RequestBody: &pb.BodyResponse{Response: &pb.CommonResponse{
			HeaderMutation:  &pb.HeaderMutation{SetHeaders: set},
			BodyMutation:    &pb.BodyMutation{Mutation: &pb.BodyMutation_Body{Body: body}},
			ClearRouteCache: true,
		}}},
		DynamicMetadata: &structpb.Struct{Fields: map[string]*structpb.Value{namespace: said}},
	}
}

func requestHeadersPass() *pb.ProcessingResponse {
	return &pb.ProcessingResponse{Response: &pb.ProcessingResponse_RequestHeaders{RequestHeaders: &pb.HeadersResponse{}}}
}

func requestBodyPass() *pb.ProcessingResponse {
	return &pb.ProcessingResponse{Response: &pb.ProcessingResponse_RequestBody{RequestBody: &pb.BodyResponse{}}}
}

func requestTrailersPass() *pb.ProcessingResponse {
	return &pb.ProcessingResponse{Response: &pb.ProcessingResponse_RequestTrailers{RequestTrailers: &pb.TrailersResponse{}}}
}

func responseHeadersPass() *pb.ProcessingResponse {
	return &pb.ProcessingResponse{Response: &pb.ProcessingResponse_ResponseHeaders{ResponseHeaders: &pb.HeadersResponse{}}}
}

func responseBodyPass() *pb.ProcessingResponse {
	return &pb.ProcessingResponse{Response: &pb.ProcessingResponse_ResponseBody{ResponseBody: &pb.BodyResponse{}}}
}

func responseTrailersPass() *pb.ProcessingResponse {
	return &pb.ProcessingResponse{Response: &pb.ProcessingResponse_ResponseTrailers{ResponseTrailers: &pb.TrailersResponse{}}}
}
