"""Language models over HTTP: questions in our shape or others', each answered by a stream of ours."""
