// Command go_client is a client as a stranger would write it in Go: it labels the image on standard
// input, then sends a request that is refused, and prints what it was told, a word a line.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	secondlookv1 "secondlook/v1"
)

func main() {
	image, err := io.ReadAll(os.Stdin)
	check(err)
	connection, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	client := secondlookv1.NewLabelingServiceClient(connection)
	answer, err := client.Label(ctx, &secondlookv1.LabelRequest{Image: image})
	check(err)
	for _, judgement := range answer.Labelled.Judgements {
		fmt.Println("label", judgement.ClassName)
	}

	classes := []*secondlookv1.ClassSpec{{Name: "a"}, {Name: "b\x00"}}
	_, err = client.Label(ctx, &secondlookv1.LabelRequest{
		Image: image, Ontology: &secondlookv1.Ontology{Classes: classes},
	})
	refused := status.Convert(err)
	fmt.Println("code", refused.Code())
	for _, detail := range refused.Details() {
		switch found := detail.(type) {
		case *errdetails.ErrorInfo:
			fmt.Println("reason", found.Domain, found.Reason)
		case *errdetails.BadRequest:
			fmt.Println("field", found.FieldViolations[0].Field)
		}
	}

	// The bounds are there for programs to read, too.
	classesField := (&secondlookv1.Ontology{}).ProtoReflect().Descriptor().Fields().ByName("classes")
	bounds := proto.GetExtension(classesField.Options(), secondlookv1.E_Bounds).(*secondlookv1.FieldBounds)
	fmt.Println("classes", bounds.MaxItems)

	listed, err := grpc_health_v1.NewHealthClient(connection).List(ctx, &grpc_health_v1.HealthListRequest{})
	check(err)
	fmt.Println("health", listed.Statuses[""].Status)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
