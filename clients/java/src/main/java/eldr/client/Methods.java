package eldr.client;

import com.google.protobuf.Message;
import eldr.v1.RegisterSignatureRequest;
import eldr.v1.RegisterSignatureResponse;
import eldr.v1.ReleaseRequest;
import eldr.v1.ReleaseResponse;
import eldr.v1.RenewLeasesRequest;
import eldr.v1.RenewLeasesResponse;
import eldr.v1.RouteRequest;
import eldr.v1.RouteResponse;
import eldr.v1.StreamSignaturesRequest;
import eldr.v1.StreamSignaturesResponse;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.Deadline;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.StreamObserver;
import java.util.concurrent.CompletableFuture;

/** The calls of {@code eldr.v1.RouterService}, as futures. */
final class Methods {
  static final MethodDescriptor<RouteRequest, RouteResponse> ROUTE =
      unary("Route", RouteRequest.getDefaultInstance(), RouteResponse.getDefaultInstance());
  static final MethodDescriptor<ReleaseRequest, ReleaseResponse> RELEASE =
      unary("Release", ReleaseRequest.getDefaultInstance(), ReleaseResponse.getDefaultInstance());
  static final MethodDescriptor<RenewLeasesRequest, RenewLeasesResponse> RENEW_LEASES =
      unary(
          "RenewLeases",
          RenewLeasesRequest.getDefaultInstance(),
          RenewLeasesResponse.getDefaultInstance());
  static final MethodDescriptor<RegisterSignatureRequest, RegisterSignatureResponse>
      REGISTER_SIGNATURE =
          unary(
              "RegisterSignature",
              RegisterSignatureRequest.getDefaultInstance(),
              RegisterSignatureResponse.getDefaultInstance());
  static final MethodDescriptor<StreamSignaturesRequest, StreamSignaturesResponse>
      STREAM_SIGNATURES =
          method(
              MethodType.BIDI_STREAMING,
              "StreamSignatures",
              StreamSignaturesRequest.getDefaultInstance(),
              StreamSignaturesResponse.getDefaultInstance());

  private Methods() {}

  private static <Q extends Message, A extends Message> MethodDescriptor<Q, A> unary(
      String name, Q request, A answer) {
    return method(MethodType.UNARY, name, request, answer);
  }

  private static <Q extends Message, A extends Message> MethodDescriptor<Q, A> method(
      MethodType type, String name, Q request, A answer) {
    return MethodDescriptor.newBuilder(ProtoUtils.marshaller(request), ProtoUtils.marshaller(answer))
        .setType(type)
        .setFullMethodName(MethodDescriptor.generateFullMethodName("eldr.v1.RouterService", name))
        .build();
  }

  /** One try. Cancelling the future cancels the call. */
  static <Q, A> CompletableFuture<A> send(
      Channel channel, MethodDescriptor<Q, A> method, Q request, Deadline until) {
    ClientCall<Q, A> call = channel.newCall(method, CallOptions.DEFAULT.withDeadline(until));
    CompletableFuture<A> future = new CompletableFuture<>();
    ClientCalls.asyncUnaryCall(
        call,
        request,
        new StreamObserver<A>() {
          private A answer;

          @Override
          public void onNext(A value) {
            answer = value;
          }

          @Override
          public void onError(Throwable failure) {
            future.completeExceptionally(failure);
          }

          @Override
          public void onCompleted() {
            future.complete(answer);
          }
        });
    Futures.ifCancelled(future, () -> call.cancel("the caller gave up", null));
    return future;
  }
}
